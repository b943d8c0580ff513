"""Why a job does not move (mn why), and whether server, broker and nodes are fit to run jobs (mn doctor)."""
