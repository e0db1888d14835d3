"""Who asks: accounts of people, tokens of machines, and what each may do."""
