"""3D scenes over the data plane: kept, edited, drawn from cameras, watched live, and filmed."""
