"""Questions asked of many networks at once, each answered by tables, pictures and the reading of its own numbers.

`_jackknife` says how sure a mean over pairs of networks is, `_part` is an answer and how it becomes files.
"""
