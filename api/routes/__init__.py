"""The routes, a module a plural noun. A route never imports a route."""
