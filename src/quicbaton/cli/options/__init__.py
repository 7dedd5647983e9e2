"""What each command can be told: a struct of options each, which needs nothing that runs them."""
