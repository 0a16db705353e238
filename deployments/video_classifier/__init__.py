"""Video classifiers: classes and features of clips, and actions in long videos."""
