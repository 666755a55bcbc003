// adreno-740: conv2d 1x8x8x16x32x3x3x1x1 float16 int8, version 2 of the family
__kernel void main_kernel(__global half* restrict conv2d_scale_ptr, __read_only image1d_buffer_t p0_ptr /* CL_HALF_FLOAT */, __read_only image1d_buffer_t p1_ptr /* CL_SNORM_INT8 */, __global float* restrict p2_ptr) {
  int _ptr[4];
  int _ptr_1[5];
  half4 _ptr_2[10];
  half _ptr_3[16];
  __local half _ptr_4[4608];
  half _ptr_5[20];
  half4 _ptr_6[1];
  int _ptr_7[1];
  float _ptr_8[5];
  int _ptr_9[1];
  int cse_v5 = (((convert_int(get_local_id(0))) >> 3) * 32);
  int v = (((convert_int(get_local_id(0))) >> 3) * 32);
  _ptr[0] = (((convert_int(get_local_id(0))) >> 3) * 32);
  _ptr[1] = ((convert_int(get_local_id(0))) * 4);
  int cse_v1 = ((convert_int(get_local_id(0))) >> 5);
  int cse_v2 = ((convert_int(get_local_id(0))) & 7);
  _ptr[2] = ((((((convert_int(get_local_id(0))) & 31) >> 3) * 288) + (((convert_int(get_local_id(0))) >> 5) * 32)) + ((convert_int(get_local_id(0))) & 7));
  int cse_v6 = (((convert_int(get_local_id(0))) >> 5) * 4);
  int cse_v9 = ((convert_int(((convert_uint(((convert_int(get_local_id(0))) >> 5))) / (uint)3))) * 28);
  int v_1 = (((convert_int(((convert_uint(((convert_int(get_local_id(0))) >> 5))) / (uint)3))) * 28) + (((convert_int(get_local_id(0))) >> 5) * 4));
  int cse_v3 = ((convert_int(get_group_id(0))) * 40);
  int cse_v7 = (((convert_int(get_group_id(0))) * 40) + (((convert_int(get_local_id(0))) & 7) * 5));
  int cse_v8 = min((int)(((convert_int(get_group_id(0))) * 40) + (((convert_int(get_local_id(0))) & 7) * 5)), (int)63);
  _ptr_1[0] = (((((min((int)(((convert_int(get_group_id(0))) * 40) + (((convert_int(get_local_id(0))) & 7) * 5)), (int)63) >> 3) * 40) + ((convert_int(((convert_uint(((convert_int(get_local_id(0))) >> 5))) / (uint)3))) * 28)) + (((convert_int(get_local_id(0))) >> 5) * 4)) + ((min((int)(((convert_int(get_group_id(0))) * 40) + (((convert_int(get_local_id(0))) & 7) * 5)), (int)63) & 7) * 4));
  int cse_v10 = min((int)((((convert_int(get_group_id(0))) * 40) + (((convert_int(get_local_id(0))) & 7) * 5)) + 1), (int)63);
  _ptr_1[1] = (((((min((int)((((convert_int(get_group_id(0))) * 40) + (((convert_int(get_local_id(0))) & 7) * 5)) + 1), (int)63) >> 3) * 40) + ((convert_int(((convert_uint(((convert_int(get_local_id(0))) >> 5))) / (uint)3))) * 28)) + (((convert_int(get_local_id(0))) >> 5) * 4)) + ((min((int)((((convert_int(get_group_id(0))) * 40) + (((convert_int(get_local_id(0))) & 7) * 5)) + 1), (int)63) & 7) * 4));
  int cse_v11 = min((int)((((convert_int(get_group_id(0))) * 40) + (((convert_int(get_local_id(0))) & 7) * 5)) + 2), (int)63);
  _ptr_1[2] = (((((min((int)((((convert_int(get_group_id(0))) * 40) + (((convert_int(get_local_id(0))) & 7) * 5)) + 2), (int)63) >> 3) * 40) + ((convert_int(((convert_uint(((convert_int(get_local_id(0))) >> 5))) / (uint)3))) * 28)) + (((convert_int(get_local_id(0))) >> 5) * 4)) + ((min((int)((((convert_int(get_group_id(0))) * 40) + (((convert_int(get_local_id(0))) & 7) * 5)) + 2), (int)63) & 7) * 4));
  int cse_v12 = min((int)((((convert_int(get_group_id(0))) * 40) + (((convert_int(get_local_id(0))) & 7) * 5)) + 3), (int)63);
  _ptr_1[3] = (((((min((int)((((convert_int(get_group_id(0))) * 40) + (((convert_int(get_local_id(0))) & 7) * 5)) + 3), (int)63) >> 3) * 40) + ((convert_int(((convert_uint(((convert_int(get_local_id(0))) >> 5))) / (uint)3))) * 28)) + (((convert_int(get_local_id(0))) >> 5) * 4)) + ((min((int)((((convert_int(get_group_id(0))) * 40) + (((convert_int(get_local_id(0))) & 7) * 5)) + 3), (int)63) & 7) * 4));
  int cse_v13 = min((int)((((convert_int(get_group_id(0))) * 40) + (((convert_int(get_local_id(0))) & 7) * 5)) + 4), (int)63);
  _ptr_1[4] = (((((min((int)((((convert_int(get_group_id(0))) * 40) + (((convert_int(get_local_id(0))) & 7) * 5)) + 4), (int)63) >> 3) * 40) + ((convert_int(((convert_uint(((convert_int(get_local_id(0))) >> 5))) / (uint)3))) * 28)) + (((convert_int(get_local_id(0))) >> 5) * 4)) + ((min((int)((((convert_int(get_group_id(0))) * 40) + (((convert_int(get_local_id(0))) & 7) * 5)) + 4), (int)63) & 7) * 4));
  _ptr_2[0] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  _ptr_2[1] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  _ptr_2[2] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  _ptr_2[3] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  _ptr_2[4] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  _ptr_2[5] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  _ptr_2[6] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  _ptr_2[7] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  _ptr_2[8] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  _ptr_2[9] = ((half4)((half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f, (half)0.000000e+00f));
  int v_2 = ((convert_int(get_local_id(0))) >> 5);
  vstore4(read_imageh(p1_ptr, _ptr[2]), 0, _ptr_3 + 0);
  vstore4(read_imageh(p1_ptr, (_ptr[2] + 8)), 0, _ptr_3 + 4);
  vstore4(read_imageh(p1_ptr, (_ptr[2] + 16)), 0, _ptr_3 + 8);
  vstore4(read_imageh(p1_ptr, (_ptr[2] + 24)), 0, _ptr_3 + 12);
  _ptr[2] = (_ptr[2] + 32);
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(vload4(0, _ptr_3 + 0), 0, _ptr_4 + (_ptr[1] * 4));
  vstore4(vload4(0, _ptr_3 + 4), 0, _ptr_4 + ((_ptr[1] * 4) + 4));
  vstore4(vload4(0, _ptr_3 + 8), 0, _ptr_4 + ((_ptr[1] * 4) + 8));
  vstore4(vload4(0, _ptr_3 + 12), 0, _ptr_4 + ((_ptr[1] * 4) + 12));
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int v_3 = 0; v_3 < 4; ++v_3) {
    vstore4(read_imageh(p0_ptr, _ptr_1[0]), 0, _ptr_5 + 0);
    vstore4(read_imageh(p0_ptr, _ptr_1[1]), 0, _ptr_5 + 4);
    vstore4(read_imageh(p0_ptr, _ptr_1[2]), 0, _ptr_5 + 8);
    vstore4(read_imageh(p0_ptr, _ptr_1[3]), 0, _ptr_5 + 12);
    vstore4(read_imageh(p0_ptr, _ptr_1[4]), 0, _ptr_5 + 16);
    int cse_v4 = (v_3 * 4);
    _ptr_6[0] = vload4(0, _ptr_4 + ((_ptr[0] * 4) + (v_3 * 4)));
    _ptr_2[0] = (_ptr_2[0] + (((half4)(_ptr_5[0])) * _ptr_6[0]));
    _ptr_2[2] = (_ptr_2[2] + (((half4)(_ptr_5[4])) * _ptr_6[0]));
    _ptr_2[4] = (_ptr_2[4] + (((half4)(_ptr_5[8])) * _ptr_6[0]));
    _ptr_2[6] = (_ptr_2[6] + (((half4)(_ptr_5[12])) * _ptr_6[0]));
    _ptr_2[8] = (_ptr_2[8] + (((half4)(_ptr_5[16])) * _ptr_6[0]));
    _ptr_6[0] = vload4(0, _ptr_4 + (((_ptr[0] * 4) + (v_3 * 4)) + 16));
    _ptr_2[1] = (_ptr_2[1] + (((half4)(_ptr_5[0])) * _ptr_6[0]));
    _ptr_2[3] = (_ptr_2[3] + (((half4)(_ptr_5[4])) * _ptr_6[0]));
    _ptr_2[5] = (_ptr_2[5] + (((half4)(_ptr_5[8])) * _ptr_6[0]));
    _ptr_2[7] = (_ptr_2[7] + (((half4)(_ptr_5[12])) * _ptr_6[0]));
    _ptr_2[9] = (_ptr_2[9] + (((half4)(_ptr_5[16])) * _ptr_6[0]));
    _ptr_6[0] = vload4(0, _ptr_4 + (((_ptr[0] * 4) + (v_3 * 4)) + 32));
    _ptr_2[0] = (_ptr_2[0] + (((half4)(_ptr_5[1])) * _ptr_6[0]));
    _ptr_2[2] = (_ptr_2[2] + (((half4)(_ptr_5[5])) * _ptr_6[0]));
    _ptr_2[4] = (_ptr_2[4] + (((half4)(_ptr_5[9])) * _ptr_6[0]));
    _ptr_2[6] = (_ptr_2[6] + (((half4)(_ptr_5[13])) * _ptr_6[0]));
    _ptr_2[8] = (_ptr_2[8] + (((half4)(_ptr_5[17])) * _ptr_6[0]));
    _ptr_6[0] = vload4(0, _ptr_4 + (((_ptr[0] * 4) + (v_3 * 4)) + 48));
    _ptr_2[1] = (_ptr_2[1] + (((half4)(_ptr_5[1])) * _ptr_6[0]));
    _ptr_2[3] = (_ptr_2[3] + (((half4)(_ptr_5[5])) * _ptr_6[0]));
    _ptr_2[5] = (_ptr_2[5] + (((half4)(_ptr_5[9])) * _ptr_6[0]));
    _ptr_2[7] = (_ptr_2[7] + (((half4)(_ptr_5[13])) * _ptr_6[0]));
    _ptr_2[9] = (_ptr_2[9] + (((half4)(_ptr_5[17])) * _ptr_6[0]));
    _ptr_6[0] = vload4(0, _ptr_4 + (((_ptr[0] * 4) + (v_3 * 4)) + 64));
    _ptr_2[0] = (_ptr_2[0] + (((half4)(_ptr_5[2])) * _ptr_6[0]));
    _ptr_2[2] = (_ptr_2[2] + (((half4)(_ptr_5[6])) * _ptr_6[0]));
    _ptr_2[4] = (_ptr_2[4] + (((half4)(_ptr_5[10])) * _ptr_6[0]));
    _ptr_2[6] = (_ptr_2[6] + (((half4)(_ptr_5[14])) * _ptr_6[0]));
    _ptr_2[8] = (_ptr_2[8] + (((half4)(_ptr_5[18])) * _ptr_6[0]));
    _ptr_6[0] = vload4(0, _ptr_4 + (((_ptr[0] * 4) + (v_3 * 4)) + 80));
    _ptr_2[1] = (_ptr_2[1] + (((half4)(_ptr_5[2])) * _ptr_6[0]));
    _ptr_2[3] = (_ptr_2[3] + (((half4)(_ptr_5[6])) * _ptr_6[0]));
    _ptr_2[5] = (_ptr_2[5] + (((half4)(_ptr_5[10])) * _ptr_6[0]));
    _ptr_2[7] = (_ptr_2[7] + (((half4)(_ptr_5[14])) * _ptr_6[0]));
    _ptr_2[9] = (_ptr_2[9] + (((half4)(_ptr_5[18])) * _ptr_6[0]));
    _ptr_6[0] = vload4(0, _ptr_4 + (((_ptr[0] * 4) + (v_3 * 4)) + 96));
    _ptr_2[0] = (_ptr_2[0] + (((half4)(_ptr_5[3])) * _ptr_6[0]));
    _ptr_2[2] = (_ptr_2[2] + (((half4)(_ptr_5[7])) * _ptr_6[0]));
    _ptr_2[4] = (_ptr_2[4] + (((half4)(_ptr_5[11])) * _ptr_6[0]));
    _ptr_2[6] = (_ptr_2[6] + (((half4)(_ptr_5[15])) * _ptr_6[0]));
    _ptr_2[8] = (_ptr_2[8] + (((half4)(_ptr_5[19])) * _ptr_6[0]));
    _ptr_6[0] = vload4(0, _ptr_4 + (((_ptr[0] * 4) + (v_3 * 4)) + 112));
    _ptr_2[1] = (_ptr_2[1] + (((half4)(_ptr_5[3])) * _ptr_6[0]));
    _ptr_2[3] = (_ptr_2[3] + (((half4)(_ptr_5[7])) * _ptr_6[0]));
    _ptr_2[5] = (_ptr_2[5] + (((half4)(_ptr_5[11])) * _ptr_6[0]));
    _ptr_2[7] = (_ptr_2[7] + (((half4)(_ptr_5[15])) * _ptr_6[0]));
    _ptr_2[9] = (_ptr_2[9] + (((half4)(_ptr_5[19])) * _ptr_6[0]));
    _ptr_1[0] = (_ptr_1[0] + 1);
    _ptr_1[1] = (_ptr_1[1] + 1);
    _ptr_1[2] = (_ptr_1[2] + 1);
    _ptr_1[3] = (_ptr_1[3] + 1);
    _ptr_1[4] = (_ptr_1[4] + 1);
  }
  _ptr[3] = (((convert_int(((convert_uint((((convert_int(get_local_id(0))) >> 5) + 1))) / (uint)3))) * 28) - ((convert_int(((convert_uint(((convert_int(get_local_id(0))) >> 5))) / (uint)3))) * 28));
  _ptr_1[0] = (_ptr_1[0] + _ptr[3]);
  _ptr_1[1] = (_ptr_1[1] + _ptr[3]);
  _ptr_1[2] = (_ptr_1[2] + _ptr[3]);
  _ptr_1[3] = (_ptr_1[3] + _ptr[3]);
  _ptr_1[4] = (_ptr_1[4] + _ptr[3]);
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_4[(convert_int(get_local_id(0)))] = (convert_half((convert_int(get_local_id(0)))));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_7[0] = (convert_int(_ptr_4[(convert_int(get_local_id(0)))]));
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(_ptr_2[0], 0, _ptr_4 + ((_ptr_7[0] & 511) * 8));
  vstore4(_ptr_2[1], 0, _ptr_4 + (((_ptr_7[0] & 511) * 8) + 4));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_8[0] = 0.000000e+00f;
  for (int v_4 = 0; v_4 < 9; ++v_4) {
    _ptr_8[0] = (_ptr_8[0] + (convert_float(_ptr_4[(((v_4 * 256) + (((_ptr_7[0] & 511) & 31) * 8)) + (((_ptr_7[0] & 511) & 255) >> 5))])));
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(_ptr_2[2], 0, _ptr_4 + ((_ptr_7[0] & 511) * 8));
  vstore4(_ptr_2[3], 0, _ptr_4 + (((_ptr_7[0] & 511) * 8) + 4));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_8[1] = 0.000000e+00f;
  for (int v_5 = 0; v_5 < 9; ++v_5) {
    _ptr_8[1] = (_ptr_8[1] + (convert_float(_ptr_4[(((v_5 * 256) + (((_ptr_7[0] & 511) & 31) * 8)) + (((_ptr_7[0] & 511) & 255) >> 5))])));
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(_ptr_2[4], 0, _ptr_4 + ((_ptr_7[0] & 511) * 8));
  vstore4(_ptr_2[5], 0, _ptr_4 + (((_ptr_7[0] & 511) * 8) + 4));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_8[2] = 0.000000e+00f;
  for (int v_6 = 0; v_6 < 9; ++v_6) {
    _ptr_8[2] = (_ptr_8[2] + (convert_float(_ptr_4[(((v_6 * 256) + (((_ptr_7[0] & 511) & 31) * 8)) + (((_ptr_7[0] & 511) & 255) >> 5))])));
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(_ptr_2[6], 0, _ptr_4 + ((_ptr_7[0] & 511) * 8));
  vstore4(_ptr_2[7], 0, _ptr_4 + (((_ptr_7[0] & 511) * 8) + 4));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_8[3] = 0.000000e+00f;
  for (int v_7 = 0; v_7 < 9; ++v_7) {
    _ptr_8[3] = (_ptr_8[3] + (convert_float(_ptr_4[(((v_7 * 256) + (((_ptr_7[0] & 511) & 31) * 8)) + (((_ptr_7[0] & 511) & 255) >> 5))])));
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(_ptr_2[8], 0, _ptr_4 + ((_ptr_7[0] & 511) * 8));
  vstore4(_ptr_2[9], 0, _ptr_4 + (((_ptr_7[0] & 511) * 8) + 4));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_8[4] = 0.000000e+00f;
  for (int v_8 = 0; v_8 < 9; ++v_8) {
    _ptr_8[4] = (_ptr_8[4] + (convert_float(_ptr_4[(((v_8 * 256) + (((_ptr_7[0] & 511) & 31) * 8)) + (((_ptr_7[0] & 511) & 255) >> 5))])));
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  if ((_ptr_7[0] & 511) < 256) {
    _ptr_4[((((_ptr_7[0] & 511) & 31) * 40) + (((_ptr_7[0] & 511) & 255) >> 5))] = (convert_half(_ptr_8[0]));
    _ptr_4[(((((_ptr_7[0] & 511) & 31) * 40) + (((_ptr_7[0] & 511) & 255) >> 5)) + 8)] = (convert_half(_ptr_8[1]));
    _ptr_4[(((((_ptr_7[0] & 511) & 31) * 40) + (((_ptr_7[0] & 511) & 255) >> 5)) + 16)] = (convert_half(_ptr_8[2]));
    _ptr_4[(((((_ptr_7[0] & 511) & 31) * 40) + (((_ptr_7[0] & 511) & 255) >> 5)) + 24)] = (convert_half(_ptr_8[3]));
    _ptr_4[(((((_ptr_7[0] & 511) & 31) * 40) + (((_ptr_7[0] & 511) & 255) >> 5)) + 32)] = (convert_half(_ptr_8[4]));
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_9[0] = ((_ptr_7[0] - (convert_int(get_local_id(0)))) & 1);
  #pragma unroll 1
  while (1) {
    if (!((_ptr_9[0] < 2))) { break; }
    if ((((_ptr_9[0] & 3) * 9) + ((_ptr_7[0] & 511) >> 5)) < 10) {
      if ((((convert_int(get_group_id(0))) * 5) + (((((_ptr_7[0] & 511) & 7) * 5) + ((((_ptr_9[0] & 3) * 9) + ((_ptr_7[0] & 511) >> 5)) >> 1)) >> 3)) < 8) {
        vstore4((convert_half4((((convert_float4(vload4(0, _ptr_4 + (((((_ptr_7[0] & 511) & 31) * 40) + ((_ptr_9[0] & 3) * 36)) + (((_ptr_7[0] & 511) >> 5) * 4))))) * ((float4)(1.270000e+02f))) * vload4(0, p2_ptr + (((((_ptr_7[0] - (convert_int(get_local_id(0)))) & 1) * 32) + ((((_ptr_7[0] & 511) & 31) >> 3) * 8)) + (((((_ptr_9[0] & 3) * 9) + ((_ptr_7[0] & 511) >> 5)) & 1) * 4)))))), 0, conv2d_scale_ptr + ((((min((int)((((convert_int(get_group_id(0))) * 40) + (((_ptr_7[0] & 511) & 7) * 5)) + ((((_ptr_9[0] & 3) * 9) + ((_ptr_7[0] & 511) >> 5)) >> 1)), (int)63) * 32) + (((_ptr_7[0] - (convert_int(get_local_id(0)))) & 1) * 32)) + ((((_ptr_7[0] & 511) & 31) >> 3) * 8)) + (((((_ptr_9[0] & 3) * 9) + ((_ptr_7[0] & 511) >> 5)) & 1) * 4)));
      }
    }
    _ptr_9[0] = (_ptr_9[0] + 1);
  }
}

