"""Train examples/mnist.py in several processes at once; nothing in it differs from training in one.

python examples/distributed.py --processes 2

It does what `torchrun --nproc-per-node=2 examples/mnist.py` does. Each process reads a share of the data of its own,
and the first one prints. A batch_size counts for each process: with two, a step takes twice as many images.
"""

import argparse
import sys

import mnist

import kerastorch as kt


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="All other arguments are for mnist.py: --data, --epochs, --quick, --device.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="how many to start (2)")
    args, sys.argv[1:] = parser.parse_known_args()  # mnist.py reads the rest, in each process
    kt.launch(mnist.main, nproc=args.processes)


if __name__ == "__main__":
    main()
