"""`python -m bench COMMAND`: fix the cores and the threads, then start the command in a process that has them."""

import argparse
import os
import sys

COMMANDS = {
    "gmm": "time per EM iteration of Gaussian mixtures, beside the peers, with the floor and the peak memory",
    "chain": "time per EM iteration of hidden Markov models, beside the peers, with the peak memory",
    "lds": "the same of linear-Gaussian state-space models",
    "families": "latent classes, Poisson mixtures and mixtures of regressions, beside stepmix and NumPy",
    "factor": "a whole factor analysis, beside the peers",
    "restarts": "a whole search with 256 restarts, and what each screening schedule gains and loses",
    "accelerate": "evaluations, time and end of accelerated EM and of L-BFGS; a search with 64 restarts",
    "remaining": "the default solver and stop over the zoo, beside solvers stopped by an oracle",
    "implicit": "the derivative of a fit beside the fit and the unrolled loop, in time and memory",
    "bootstrap": "1,000 bootstrap fits of a mixture in one call, beside joblib over scikit-learn",
    "gem": "E-steps derived from a log-joint beside hand-written ones; gradient M-steps beside closed forms",
    "gpu": "all of this on a GPU, checked, in six minutes; --dry on a CPU; --counts: what the programs consist of",
    "startup": "import, first fit in a new process, and compilations on a second fit",
}


def main() -> None:
    """Start one command with the cores and the thread counts fixed before any numerical library is loaded."""
    listing = "\n".join(f"  {name:10}{text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=f"commands:\n{listing}",
        epilog="Each command has more options: python -m bench COMMAND --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=len(sys.argv) < 3,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    parser.add_argument("--threads", type=int, choices=(1, 2), default=1)
    arguments, _ = parser.parse_known_args()
    allowed = sorted(os.sched_getaffinity(0))
    if arguments.command == "gpu":  # it has all cores, and threads of its own that each make products
        arguments.threads = 1
    elif len(allowed) < arguments.threads:
        parser.error(f"--threads {arguments.threads} needs as many cores; this process may use {len(allowed)}")
    if arguments.command != "gpu":
        os.sched_setaffinity(0, allowed[: arguments.threads])
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(arguments.threads)
    os.execv(sys.executable, [sys.executable, "-m", f"bench.{arguments.command}", *sys.argv[2:]])


if __name__ == "__main__":
    main()
