"""The plan of a comparison, a YAML file: which systems, on which data, and how their costs are measured."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import yaml

from escnet.command_line import one_line
from escnet.config import find_config
from escnet.data.benchmarks import dataset_folder_name, full_dataset_name, split_dataset_name
from escnet.evaluation.protocols import Column, Protocol

ROLES = ("", "seen", "unseen")
Entry = TypeVar("Entry")


class PlanError(ValueError):
    """A plan that cannot be followed; the message names the file or the system, and what to do."""


@dataclass(frozen=True)
class System:
    """One row of the comparison.

    Attributes:
        name: in tables, and of its folders.
        config: configuration file, as for `load_config`; "" for a published model.
        weights: the checkpoint, a path or "shipped:NAME", or a published model; "" for what the configuration says.
        model: in place of both the name of a published model: a folder, "hub:owner/name", "shipped:esc_net".
        options: configuration keys to set, by name.
        random_options: further ones where weights are random: for a system whose costs depend on what it finds, such as
            how many prompts it draws, those that make it find a known part.
    """

    name: str
    config: str = ""
    weights: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    random_options: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""


@dataclass(frozen=True)
class ComparedData:
    """One column of mIoU. A dataset may have several, one for each protocol.

    Attributes:
        name: a dataset's name, short or full, or ``folder:PATH``; with a slice if wanted.
        role: whether the masks of its scored classes were seen while training: "seen", "unseen", or "" for some.
        protocol, prompts: under which it is judged: name and prompts of a `Protocol`.
    """

    name: str
    role: str = ""
    protocol: str = "ordinary"
    prompts: str = "none"

    @property
    def column(self) -> Column:
        """Dataset and protocol.

        Raises:
            ValueError: there is no such protocol.
        """
        return Column(self.name, Protocol(self.protocol, self.prompts))


@dataclass(frozen=True)
class CostPlan:
    """How costs are measured.

    Attributes:
        data: the dataset whose pictures and words are taken; "" for the first column.
        pictures: how many of its pictures, evenly spread.
        repeats: how often each is segmented.
        threads: of PyTorch.
        words: how many words there are where no dataset gives them.
        picture_size: (height, width) of the picture where no dataset gives one.
    """

    data: str = ""
    pictures: int = 4
    repeats: int = 3
    threads: int = 1
    words: int = 150
    picture_size: tuple[int, int] = (480, 640)


@dataclass(frozen=True)
class ComparisonPlan:
    """What is compared.

    Attributes:
        systems: the rows, in order; the names are different.
        data: the columns of mIoU, in order.
        costs: how costs are measured.
    """

    systems: tuple[System, ...]
    data: tuple[ComparedData, ...]
    costs: CostPlan

    def limited(self, images: int) -> ComparisonPlan:
        """The same with only the first images of each dataset.

        Raises:
            PlanError: fewer than one, or a dataset that has a slice already.
        """
        if images < 1:
            raise PlanError(f"the limit is {images}; at least one image is needed")
        for data in self.data:
            if split_dataset_name(data.name)[1] != slice(None):
                raise PlanError(f"a limit and the slice of {data.name} contradict each other; leave one out")
        return replace(self, data=tuple(replace(data, name=f"{data.name}[:{images}]") for data in self.data))

    def only(self, names: Sequence[str]) -> ComparisonPlan:
        """The same with the named systems alone, in the order of the plan.

        Raises:
            PlanError: there is no such system.
        """
        for name in names:
            self._require_system(name)
        return replace(self, systems=tuple(system for system in self.systems if system.name in names))

    def with_weights(self, weights: Mapping[str, str]) -> ComparisonPlan:
        """The same with other checkpoints, by the names of the systems.

        Raises:
            PlanError: there is no such system, or it is a published model.
        """
        for name in weights:
            self._require_system(name)
        for system in self.systems:
            if system.model and system.name in weights:
                raise PlanError(
                    f"{system.name}: is {system.model}, which brings its weights; give it a 'config' instead"
                )
        systems = (replace(system, weights=weights.get(system.name, system.weights)) for system in self.systems)
        return replace(self, systems=tuple(systems))

    def _require_system(self, name: str) -> None:
        names = [system.name for system in self.systems]
        if name not in names:
            # Names have commas in them.
            own = ", ".join(f"'{known}'" for known in names)
            raise PlanError(f"the comparison has no system '{name}'; its systems are {own}")


def read_plan(path: str | os.PathLike[str]) -> ComparisonPlan:
    """Read a plan: the keys `systems`, `data` and `costs`, whose entries have the attributes of the classes above.

    Args:
        path: of the file, or of one that ships with the package, as for `find_config`.

    Raises:
        ConfigError: there is no such file.
        PlanError: the file cannot be read, or something in it cannot be used.
    """
    try:
        contents = yaml.safe_load(find_config(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PlanError(f"{path}: cannot be read as the plan of a comparison ({one_line(error)})") from None
    try:
        return _plan(contents)
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from None


def _plan(contents: Any) -> ComparisonPlan:
    contents = _mapping("the file", contents, ("systems", "data", "costs"))
    systems = tuple(_entry(System, f"system {i}", entry) for i, entry in _numbered(contents, "systems"))
    data = tuple(_entry(ComparedData, f"data {i}", entry) for i, entry in _numbered(contents, "data"))
    costs = _entry(CostPlan, "costs", contents.get("costs") or {})
    _check_names("systems", [dataset_folder_name(system.name) for system in systems])
    data = tuple(replace(entry, name=full_dataset_name(entry.name)) for entry in data)
    for entry in data:
        if entry.role not in ROLES:
            raise PlanError(f"the role of {entry.name} is '{entry.role}'; it is 'seen', 'unseen' or left out")
    _check_names("data", [_key(entry) for entry in data])
    return ComparisonPlan(systems, data, _costs(costs, data[0].name))


def _key(data: ComparedData) -> str:
    try:
        return data.column.key
    except ValueError as error:
        raise PlanError(f"{data.name}: {error}") from None


def _costs(costs: CostPlan, first: str) -> CostPlan:
    size = costs.picture_size
    if not isinstance(size, list | tuple) or len(size) != 2:
        raise PlanError(f"costs: picture_size is {size!r}; it has to be [height, width]")
    numbers = {key: getattr(costs, key) for key in ("pictures", "repeats", "threads", "words")}
    for key, value in [*numbers.items(), *(("picture_size", side) for side in size)]:
        if type(value) is not int or value < 1:
            raise PlanError(f"costs: {key} has {value!r}; it has to be a whole number of at least 1")
    return replace(costs, data=full_dataset_name(costs.data or first), picture_size=tuple(size))


def _numbered(contents: Mapping[str, Any], key: str) -> list[tuple[int, Any]]:
    entries = contents.get(key)
    if not isinstance(entries, list) or not entries:
        raise PlanError(f"'{key}' has to be a list of at least one entry")
    return list(enumerate(entries, start=1))


def _entry(kind: type[Entry], where: str, entry: Any) -> Entry:
    """A data class from a mapping; its texts have to be texts."""
    known = {item.name: item for item in fields(kind)}
    entry = _mapping(where, entry, tuple(known))
    for key in ("name", "config", "weights", "model", "role", "data", "protocol", "prompts"):
        if key in entry and not isinstance(entry[key], str):
            raise PlanError(f"{where}: '{key}' is {entry[key]!r}; it has to be a text")
    if "name" in known and not entry.get("name"):
        raise PlanError(f"{where} has no 'name'")
    if kind is System and bool(entry.get("model")) == bool(entry.get("config")):
        raise PlanError(f"{where} needs either a 'config' or a 'model', which is a published one")
    if entry.get("model") and entry.get("weights"):
        raise PlanError(f"{where} has a 'model', which brings its weights; leave 'weights' out, or take 'config'")
    for key in ("options", "random_options"):
        if not isinstance(entry.get(key, {}), Mapping):
            raise PlanError(f"{where}: '{key}' has to be KEY: VALUE pairs, such as MODEL.PRECISION: bf16")
    return kind(**entry)


def _mapping(where: str, value: Any, known: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise PlanError(f"{where} is {value!r}; it has to be of keys and values: {', '.join(known)}")
    unknown = [str(key) for key in value if key not in known]
    if unknown:
        raise PlanError(f"{where} has the key '{unknown[0]}', which is unknown; there are {', '.join(known)}")
    return value


def _check_names(key: str, names: Sequence[str]) -> None:
    for name in names:
        if name in ("", ".", ".."):
            raise PlanError(f"'{key}' has the name '{name}', which no folder can have")
        if names.count(name) > 1:
            raise PlanError(f"'{key}' names {name} twice; each needs a name of its own")
