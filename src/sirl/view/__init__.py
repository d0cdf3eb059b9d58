"""A local page over run folders: read-only, on the loopback interface only.

`folders` finds the runs, `pages` turns them into HTML, `server` answers requests. Names in requests are looked up among
the runs that were found, so that no request names a path.
"""
