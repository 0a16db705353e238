"""Documents: pages of PDFs and images as lines in reading order and tables, and a summary without a language model."""
