"""What a service embeds: the node, its publishers and its consumers."""
