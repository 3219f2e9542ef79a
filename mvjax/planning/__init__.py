"""What a program will need on a machine that is not here: memory, operations, bytes over the network, time at best."""
