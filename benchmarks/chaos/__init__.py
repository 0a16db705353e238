"""`argus bench chaos`: things break while requests come; nothing acknowledged may be lost, and no request may hang."""
