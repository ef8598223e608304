#!/bin/sh
# The name under which the article's manifest starts the slave; the program reads the arguments.
exec /usr/local/bin/jenkins-slave "$@"
