"""Starting a run in one or several processes: by torchrun, by Detectron2's launcher, or in this process."""

from __future__ import annotations

import multiprocessing
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch
from detectron2.engine import launch as launch_processes
from detectron2.utils import comm
from torch import distributed
from torch.multiprocessing import ProcessExitedException


def check_processes(args: Namespace, device: str) -> None:
    """Check the arguments of `launch`.

    Raises:
        ValueError: more processes than GPUs, several on a device of which there is one, or several machines without a
            common address.
    """
    if device.split(":")[0] in ("mps", "xpu") and count_processes(args)[0] > 1:
        raise ValueError(f"several processes run on a CPU or on CUDA's GPUs, not on {device}; leave --num-gpus at 1")
    if device.startswith("cuda") and args.num_gpus > torch.cuda.device_count():
        raise ValueError(f"--num-gpus is {args.num_gpus}, but this machine has {torch.cuda.device_count()}")
    if args.num_machines > 1 and args.dist_url == "auto":
        raise ValueError("--num-machines needs --dist-url, for example tcp://<address of machine 0>:29500")


def count_processes(args: Namespace) -> tuple[int, int]:
    """How many processes `launch` makes of its arguments, in all and on this machine; or torchrun has begun."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        world = int(os.environ["WORLD_SIZE"])
        return world, int(os.environ.get("LOCAL_WORLD_SIZE", world))
    local = max(1, args.num_gpus)
    return local * args.num_machines, local


def launch(run: Callable[..., None], args: Namespace, device: str, arguments: tuple[Any, ...]) -> None:
    """Call `run(*arguments)` in each process of the run.

    Args:
        run: a function of a module, so that it can be called in new processes.
        args: `num_gpus` processes on each of `num_machines`, this one `machine_rank`; `dist_url`. Under torchrun,
            which has already started the processes, they do not count.
        device: "cpu" or "cuda", on which the models are.
        arguments: of `run`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _join_torchrun(device)
        try:
            run(*arguments)
        finally:
            distributed.destroy_process_group()
        return
    job = (multiprocessing.get_start_method(), run, arguments)
    try:
        launch_processes(
            _run_process, max(1, args.num_gpus), args.num_machines, args.machine_rank, args.dist_url, args=job
        )
    except ProcessExitedException as error:
        # The process has already said what is wrong; a signal has a negative code.
        sys.exit(error.exit_code if error.exit_code > 0 else 1)


def _run_process(start_method: str, run: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    # A spawned process would spawn its data workers too, and each of them would import everything again.
    multiprocessing.set_start_method(start_method, force=True)
    run(*arguments)


def _join_torchrun(device: str) -> None:
    """Join the process group that torchrun describes in the environment, and Detectron2's group of this machine."""
    is_cuda = device.startswith("cuda")
    if is_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if is_cuda else "gloo")
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    comm.synchronize()
