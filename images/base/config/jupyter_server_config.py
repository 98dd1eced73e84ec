"""Server settings of every image. A user's own ~/.jupyter files still come after these."""

import os
import sys

c = get_config()  # noqa: F821 - Jupyter defines it when it reads this file

c.ServerApp.root_dir = "/home/dcloud"
# Deleting sends files to a trash folder by default, which counts as home space that nobody sees.
c.FileContentsManager.delete_to_trash = False
# Not a login shell: /etc/profile would replace the PATH of the image.
c.ServerApp.terminado_settings = {"shell_command": ["/bin/bash"]}
# Kernels over Unix sockets: nothing else in the container's network can reach them.
c.KernelManager.transport = "ipc"

# boto3, aws and s3fs in kernels and terminals find the storage, and notebooks are kept there where
# the profile says so. Whatever goes wrong there, the server starts.
IN_STORAGE = os.environ.get("DCLOUD_NOTEBOOKS") == "storage"
try:
    sys.path.append("/opt/dcloud/storage")
    import dcloud_storage

    os.environ.update(dcloud_storage.configure(own_comes_first=not IN_STORAGE))
    if IN_STORAGE:
        import dcloud_notebooks

        dcloud_notebooks.keep_in_storage(c, "/home/dcloud")
except Exception as error:
    sys.stderr.write(f"Direct access to storage is not set up: {error}\n")
