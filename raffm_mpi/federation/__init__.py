"""The federated round on MPI: a server, client groups, the plan between them and the transport below."""
