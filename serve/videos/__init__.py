"""Understanding videos: what is asked of them, how longer ones are watched in chunks, and how the parts become one."""
