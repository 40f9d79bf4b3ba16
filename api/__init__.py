"""The API image: turns HTTP into messages and queries, and nothing else."""
