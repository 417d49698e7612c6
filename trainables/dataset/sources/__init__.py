"""Where a dataset comes from.

- ``find``: a folder, a name on the hub or an address in a store
- ``fetch``: what is downloaded, whole or not at all
- ``object_store``: datasets in object stores
"""
