"""Why a job does not move (`mn why`), and whether server, broker and nodes can run jobs (`mn doctor`)."""
