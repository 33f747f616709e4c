"""Runs a command, and prints what its largest process had at its peak, in MB."""

import resource
import subprocess
import sys

status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000 * 1.024)
sys.exit(status)
