// Test only: says where in the simulator's memory the gates lie, so that a search for keys can tell
// the gates' own registers from copies that should not be there.

module model_location;
  import "DPI-C" context function void model_location_print();
  initial model_location_print();
endmodule

bind sim_top model_location u_model_location ();
