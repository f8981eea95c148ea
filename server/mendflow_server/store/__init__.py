"""Storing: one protocol, and an implementation for each database.

The server uses ``interface.py``, ``records.py``, ``errors.py``, ``committer.py``, ``retrying.py`` and ``factory.py``.
What the implementations share is in ``columns.py`` (rows and their columns), ``delivery.py`` (the outcomes of
messages), ``listing.py``, ``loading.py``, ``purging.py``, ``damage.py`` and ``sql_files.py`` (statements and
migrations).
"""
