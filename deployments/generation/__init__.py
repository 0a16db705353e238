"""Models that write text: what is sent to them, the engines that run them, and the replica around an engine."""
