"""One unit of work each, as plain importable functions. ``flows`` decides who runs them, when, and how often again.

Knows nothing of Prefect or Dask: there is no ``@task`` here, so a test is a function call and a worker needs no Prefect.
"""
