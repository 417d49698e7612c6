"""Policies served over a WebSocket: one session per connection, predictions of all sessions in batches.

- ``running``: a server in its own thread: started, waited for, closed
- ``server``: connections, pages and limits
- ``sessions``: what the server remembers of a client: observations, randomness
- ``observations``: a client's observation, checked
- ``batcher``: predictions for several sessions at once, in one thread
- ``metrics``: counters in Prometheus' format
- ``protocol``: messages: msgpack with numpy arrays. The client uses it too, so it needs nothing else
"""
