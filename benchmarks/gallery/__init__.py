"""The systems of generative modelling, a row each: `invgen gallery` lists them, `invgen gallery N` runs one.

A row is a file row<number>_<name>.py in pictures/ or sequences/, under 80 lines, with run(out, quick) -> Row; measured/
has the figures of the full runs, which the list shows.
"""
