"""Who runs the work, when, and how often again: Prefect flows, the Dask dispatch, configuration, command line.

Knows nothing of how anything is computed.
"""
