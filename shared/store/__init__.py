"""All SQL of Postroom, a module a plural noun. Nothing here commits: see `shared.db`."""
