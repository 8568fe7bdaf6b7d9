"""Labelling of collections of a million pictures and more: planned, dealt out, resumed, verified.

**Plan.** The input alone is cut into units in a fixed order: so many pictures of a folder's listing, one tar archive,
or one row group of a Parquet file (`inputs`). The plan (`plan`) is written once, before any work: a header with all on
which the labels depend (words, configuration, digests of weights and of the input's listing), then a line for each
unit. A later command for the same output lists the input again and is refused, with what differs, if its header is
another.

**Units.** A worker (`labeller`) loads the model once and takes unit after unit: threads read and decode ahead of the
model, and answers are written as they come (`parts`) into a file under a temporary name. Its rename, then that of its
record (`records`: counts, failures with reasons, bytes, SHA-256), end the unit. A unit is done if its record is there
and its file has the bytes that the record says; anything else is done again and replaces what there is. So no picture
is lost or there twice, whoever is killed at whatever moment, and no part of a run has to agree with another one.

**Poison.** A picture that cannot be read or segmented is a failure in the record, and the others go on. What ends the
whole process leaves a mark (`attempts`): a unit that has been begun three times without end is labelled picture by
picture, each noted before its turn, and one that has ended the process three times is passed over and recorded. A
picture that takes too long ends the process by a clock of its own (`time_limit`), with a note of that. What is recorded
as a failure can be labelled again: the labels of the others are copied, and file and record replaced as at first.

**Engines.** `local_engine` (this process, or several) and `ray_engine` (Ray Data) deal out units and hear of their
records; all else is the same code. `verification` compares the keys of outputs and failures with those of the input.
"""
