"""What is written: result files, tables, folders."""
