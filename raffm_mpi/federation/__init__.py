"""The federated round on MPI: a server, client groups, and the plan between them."""
