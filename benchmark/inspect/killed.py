"""Run train.py in a process that is killed before a step: `python -m benchmark.inspect.killed`."""

import os
import signal
import sys


def main(argv: list[str]) -> int:
    """Run train.py with the arguments after the first, the number of the step, from 1."""
    import train
    from trainers.prompting.trainer import trainer

    last, do_step, seen = int(argv[0]), trainer.training_step, 0

    def counted(*given):
        nonlocal seen
        seen += 1
        if seen == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return do_step(*given)

    trainer.training_step = counted  # type: ignore[assignment]
    return train.run(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
