"""Run the benchmark on a GPU: see the package's docstring. Its processes import this file too, so torch is imported below."""

import sys

if __name__ == "__main__":
    from benchmarks.serving.gpu.run import main

    sys.exit(main())
