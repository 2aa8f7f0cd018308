"""How: the handshakes. `post` sends any item, `deferred` polls and redeems, `settle` turns durable bytes into outcomes.

Law: every change of a row's state is durable before the next step depends on it.
"""
