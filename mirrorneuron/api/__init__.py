"""The job API: the client and its parts."""
