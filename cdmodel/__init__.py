"""What the words mean and what is computed: value types, sampling, decoding, models, policies, aggregation, metrics.

Knows nothing of buckets, Prefect or Dask. Importing the package imports neither torch nor av; the modules that need
them import them.
"""
