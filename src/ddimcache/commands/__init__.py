"""The verbs of the command line, one a file; :mod:`ddimcache.cli` puts them together."""
