"""Server settings of every image. A user's own ~/.jupyter files still come after these."""

c = get_config()  # noqa: F821 - Jupyter defines it when it reads this file

c.ServerApp.root_dir = "/home/dcloud"
# Deleting sends files to a trash folder by default, which counts as home space that nobody sees.
c.FileContentsManager.delete_to_trash = False
# Not a login shell: /etc/profile would replace the PATH of the image.
c.ServerApp.terminado_settings = {"shell_command": ["/bin/bash"]}
# Kernels over Unix sockets: nothing else in the container's network can reach them.
c.KernelManager.transport = "ipc"
