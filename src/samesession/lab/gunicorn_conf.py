"""Settings for gunicorn in a file, where a version that does not know one ignores it."""

worker_class = "gthread"  # sync workers close the connection after each request
threads = 8
graceful_timeout = 3
control_socket_disable = True  # 25 and later put one in the home folder, shared by all servers
accesslog = None
loglevel = "warning"
