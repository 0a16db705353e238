"""Reading video files: frames with exact times, key frames, scenes, and clips of a longer video."""
