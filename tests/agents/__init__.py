"""The cluster around its replication core: agents, sockets, the network, the map."""
