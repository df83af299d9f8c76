"""``raffm-mpi doctor``: what a run needs of the machine, found out in seconds, each line with what to do.

Every rank gathers the facts of its place (:mod:`facts`), rank 0 judges them (:mod:`checks`, pure functions), and a few
things are tried rather than asked: the exchange, the log's folder, a buffer of the GPU.
"""
