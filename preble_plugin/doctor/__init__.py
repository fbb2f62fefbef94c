"""What is on, what is not, and the remedy: findings of this machine and of servers."""
