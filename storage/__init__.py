"""Where bytes and rows live: one door to fsspec, corpus listing, plans, the table's schema, commits, SQL views.

Knows nothing of torch, av, Prefect or Dask. This file must exist: a Dask worker's scratch folder also has a directory
called ``storage``.
"""
