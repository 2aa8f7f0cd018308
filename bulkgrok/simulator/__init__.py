"""The built-in xAI API: a pure state machine of it (`world`), and an HTTP server around that (`server`).

Law: everything that decides is pure and seeded; `server` and `journal` alone touch network, disk and clock. Importing
this package imports nothing: take what is needed from its modules.
"""
