"""Files to signals and back, one module a format; `read` is the one reader, of training too.

`scans` has the units of CT and MR whatever their format, `fit` maps a signal to a prior.
"""

from invgen.files.fit import fit
from invgen.files.matlab import read_matlab
from invgen.files.reader import read
from invgen.files.signal import Signal

__all__ = ["Signal", "fit", "read", "read_matlab"]
