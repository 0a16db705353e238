"""`/v1/documents`: text, tables and summaries of documents, by the back ends that the cluster file names."""
