"""The job API: the client and what it is made of."""
