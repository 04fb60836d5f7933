"""Names of the environment variables between ``samesession up`` and its servers."""

SERVER = "SAMESESSION_SERVER"  # s1, s2 …; also selects the server's local store
URL = "SAMESESSION_URL"
LISTEN = "SAMESESSION_LISTEN"  # where the server's agent listens (cluster://)
KEYS = "SAMESESSION_KEYS"
KEYS_FILE = "SAMESESSION_KEYS_FILE"
SECURE = "SAMESESSION_SECURE"
AFFINITY = "SAMESESSION_AFFINITY"  # what the balancer does, for the demo's page
UP = "SAMESESSION_UP"  # 1: whoever ends is started again
APP = "SAMESESSION_UP_APP"
FOLDER = "SAMESESSION_UP_FOLDER"
