"""The node's side of the key managers: proxy, connections, host names."""
