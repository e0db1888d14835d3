"""How what was found reaches people and their machines: e-mail and webhooks. Off until configured."""
